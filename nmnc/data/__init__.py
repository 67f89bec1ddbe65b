"""Training and test images: data sets, folders of classes, the only decoder, augmentation."""
