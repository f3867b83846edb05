"""Masks of all kinds behind one protocol: for `train data.*`, `evaluate masks=` and `report masks=`."""
