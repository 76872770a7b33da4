"""``python -m aigc_tasks.clean DATASET``"""

from aigc_tasks import stage
from aigc_tasks.clean.cleaning import clean

if __name__ == "__main__":
    stage.main(clean)
