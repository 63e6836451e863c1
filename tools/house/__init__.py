"""What the house's own checks share: the files of the tree and what a rule may say about them."""
