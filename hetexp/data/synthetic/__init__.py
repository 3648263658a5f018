"""The embedded data: scenes composed of sprites, and questions whose answers follow from their annotations.

`sprites` and `background` make `scenes`; `coco_format` and `training_arrays` write them down. `candidates` proposes
questions in the words of `question_templates`; `questions` selects a balanced set.
"""
