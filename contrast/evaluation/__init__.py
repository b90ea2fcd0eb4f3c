"""Scores of a frozen encoder on labelled images, beside the controls that it has to beat."""
