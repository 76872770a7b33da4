"""``python -m aigc_tasks.acquire DATASET``"""

from aigc_tasks import layout, stage


def acquire(name: str) -> None:
    from aigc_tasks.acquire.cache import restore
    from aigc_tasks.acquire.intake import take_in
    from aigc_tasks.recipe import dataset

    restore(layout.raw(name))
    brought = take_in(dataset(name).acquire, layout.raw(name), layout.LOCAL / "acquire" / name)
    print(f"acquire {name}  {brought}")


if __name__ == "__main__":
    stage.main(acquire)
