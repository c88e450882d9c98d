"""Images: data sets by name or by folder, their batches, augmentation."""
