"""What if the training data were changed?"""
