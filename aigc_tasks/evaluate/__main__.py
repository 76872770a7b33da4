"""``python -m aigc_tasks.evaluate RECIPE``"""

from aigc_tasks import stage
from aigc_tasks.evaluate.evaluation import evaluate

if __name__ == "__main__":
    stage.main(evaluate)
