"""`loralith study`: training schemes against FP32 over paired seeds, on the small diffusion model.

schemes: what is compared. point: one run. store: points as files. figures: means, paired differences, intervals. report: files for readers.
"""
