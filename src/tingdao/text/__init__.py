"""From what was heard to what is written: expected terms, punctuation, numbers, script.

Everything here takes text and gives text; nothing here knows of audio, models (but for the punctuation model's face)
or requests. `finish` puts the parts together; `leak` guards the context that `vocabulary` makes.
"""
