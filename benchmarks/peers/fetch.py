"""img2dataset on the work of `benchmarks.fetch`; runs in its own environment."""

import sys

if __name__ == "__main__":
    from img2dataset import download

    urls, out, per_shard, threads = sys.argv[1:]
    download(
        url_list=urls,
        input_format="parquet",
        url_col="url",
        caption_col="caption",
        output_folder=out,
        output_format="webdataset",
        number_sample_per_shard=int(per_shard),
        processes_count=1,
        thread_count=int(threads),
        disable_all_reencoding=True,
        extract_exif=False,
    )
