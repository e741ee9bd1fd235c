"""An erased model beside one that never knew the concept."""
