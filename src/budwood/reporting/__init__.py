"""Records become data frames, figures and a report. No Kedro, no MLflow, no torch."""
