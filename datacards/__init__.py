"""The datacards of the tDRO paper's 25 collections; read by `mixture.cards`."""
