"""What can be wrong with a user's input or machine, said in one line."""


class UserError(Exception):
    """Something the user can mend. The message names the file, the field and the mend, in one line."""
