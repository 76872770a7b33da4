"""Look at a source before it becomes a data set: of which kind it is, what lies in it, which settings suit it."""
