"""Volume files in: NIfTI, MGH, NRRD, MetaImage; one block of voxels behind a header each."""
