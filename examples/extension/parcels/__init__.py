"""An example of what other packages bring to holdfast: parcels, some of which leak."""
