"""The stages of a study, free of Kedro and MLflow: each declares its inputs, its result and its cost."""
