"""``python -m aigc_tasks.clean DATASET``"""


def clean(dataset: str) -> None:
    from aigc_tasks.clean import cleaning

    cleaning.clean(dataset)


if __name__ == "__main__":  # the processes that look at pictures come by here too, and need none of it
    from aigc_tasks import stage

    stage.main(clean)
