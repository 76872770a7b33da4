"""``python -m aigc_tasks.acquire DATASET``"""

from aigc_tasks import layout, stage
from aigc_tasks.recipe import dataset


def acquire(name: str) -> None:
    source = dataset(name).acquire
    with layout.written_whole(layout.raw(name)) as folder:
        source.fetch(folder)


if __name__ == "__main__":
    stage.main(acquire)
