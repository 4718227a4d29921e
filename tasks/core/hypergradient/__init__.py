"""The gradient of a terminal loss through the steps of a student, in the memory of one step."""
