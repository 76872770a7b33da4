"""``python -m aigc_tasks.postprocess RECIPE``"""

from aigc_tasks import stage


def postprocess(recipe: str) -> None:
    from aigc_tasks.postprocess import sampling

    sampling.postprocess(recipe)


if __name__ == "__main__":
    stage.main(postprocess)
