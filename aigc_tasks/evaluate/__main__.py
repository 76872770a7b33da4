"""``python -m aigc_tasks.evaluate RECIPE``"""

from aigc_tasks import stage


def evaluate(recipe: str) -> None:
    from aigc_tasks.evaluate import evaluation

    evaluation.evaluate(recipe)


if __name__ == "__main__":
    stage.main(evaluate)
