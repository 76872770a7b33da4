"""``python -m aigc_tasks.postprocess RECIPE``"""

from aigc_tasks import stage
from aigc_tasks.postprocess.sampling import postprocess

if __name__ == "__main__":
    stage.main(postprocess)
