"""The data's own faults: what is likely under a wrong label, twice there, unlike its label, blurred or dark."""
