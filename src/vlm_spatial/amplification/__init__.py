"""Does scaling the vision encoder's slot signal correct the model's spatial errors? (design, experiment 7)"""
