"""``python -m aigc_tasks.promote RECIPE``"""

from aigc_tasks import stage


def promote(recipe: str) -> None:
    """The gate's decision, for a flow to read from the registry and to show line by line."""
    from aigc_tasks.promote import promoting

    print(promoting.told(promoting.promote(recipe)))


if __name__ == "__main__":
    stage.main(promote)
