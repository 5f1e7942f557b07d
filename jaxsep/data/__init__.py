"""From songs on disk to training batches and back: tracks, plan, augmentation, pipeline, checks."""
