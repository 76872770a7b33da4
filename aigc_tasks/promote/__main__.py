"""``python -m aigc_tasks.promote RECIPE``"""

from aigc_tasks import stage
from aigc_tasks.promote import promoting


def promote(recipe: str) -> None:
    """The gate's decision, for a flow to read from the registry and to show line by line."""
    print(promoting.told(promoting.promote(recipe)))


if __name__ == "__main__":
    stage.main(promote)
