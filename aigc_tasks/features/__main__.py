"""``python -m aigc_tasks.features DATASET``"""

from aigc_tasks import stage
from aigc_tasks.features.judge import features

if __name__ == "__main__":
    stage.main(features)
