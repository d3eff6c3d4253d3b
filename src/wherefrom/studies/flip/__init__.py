"""Which smallest set of training examples would flip a prediction?"""
