"""``python -m aigc_tasks.train RECIPE``"""

from aigc_tasks import stage


def train(recipe: str) -> None:
    from aigc_tasks.train import training

    training.train(recipe)


if __name__ == "__main__":
    stage.main(train)
