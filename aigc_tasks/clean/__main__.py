"""``python -m aigc_tasks.clean DATASET``"""

if __name__ == "__main__":  # the processes that look at pictures come by here too, and need none of it
    from aigc_tasks import stage
    from aigc_tasks.clean.cleaning import clean

    stage.main(clean)
