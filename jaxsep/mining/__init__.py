"""Finding extracts of unlabeled songs in which a source is silent, to train with: `jaxsep data detector|mine`."""
