"""``python -m aigc_tasks``: the command ``aigc`` of the code in this folder, whatever is installed."""

from aigc_tasks.cli import main

main()
