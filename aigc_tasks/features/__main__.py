"""``python -m aigc_tasks.features DATASET``"""

from aigc_tasks import stage


def features(dataset: str) -> None:
    from aigc_tasks.features import judge

    judge.features(dataset)


if __name__ == "__main__":
    stage.main(features)
