"""``python -m aigc_tasks.train RECIPE``"""

from aigc_tasks import stage
from aigc_tasks.train.training import train

if __name__ == "__main__":
    stage.main(train)
