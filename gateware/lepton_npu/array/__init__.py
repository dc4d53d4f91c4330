"""The matrix path: quantiser, tile memory, systolic array, matrix engine."""
