"""Measure and tell: records become data frames, figures and a report. No Kedro, no MLflow, no torch."""
