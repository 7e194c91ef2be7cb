"""KFP components: one thin file per step, each wrapping one call of hilum.

A component's body imports inside, because KFP ships the function's source alone, and because the heavy libraries
together cost many seconds that only the step that needs them should pay.
"""
