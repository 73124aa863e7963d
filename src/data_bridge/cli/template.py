"""The config that `data-bridge init` writes."""

TEMPLATE = """\
# data-bridge config. `data-bridge plan FILE` shows what it would do; docs/config.md explains every key.
# ${VAR} is replaced by the environment variable; secrets never reach a plan, a log or the manifest.

pipeline:
  # What to write: webdataset (tar shards) or litdata (chunks for litdata.StreamingDataset).
  name: webdataset

  # What to read: hf://org/name[@revision], s3://, r2://, https://, file:// or a path.
  # Globs (*.parquet), ranges ({000..123}) and lists work. The format goes by the extension.
  input_uri: "data/*.jsonl"
  # input_format: jsonl        # huggingface | jsonl | csv | tsv | parquet | arrow | text | tar | files
  # source_options:            # for Hugging Face datasets
  #   split: train
  #   load_kwargs: {token: "${HF_TOKEN}"}

  # Where to write: a folder, s3://bucket/prefix or r2://bucket/prefix.
  output_uri: "data-bridge-out/my-dataset"

  # How to cut it: whichever limit is reached first closes a shard.
  samples_per_shard: 2048
  max_shard_bytes: 1GB

  # Which field becomes which tar member; all fields not named go into one json member.
  # members: {image: jpg, caption: txt}

  # A bad sample: fail (stop), skip (leave it out), quarantine (leave it out, keep its bytes).
  on_error: fail

# Cloudflare R2, for r2:// URIs.
# r2:
#   account_id: "${R2_ACCOUNT_ID}"
#   access_key_id: "${R2_ACCESS_KEY_ID}"
#   secret_access_key: "${R2_SECRET_ACCESS_KEY}"
#   bucket: my-bucket

# Any other S3 store, for s3:// URIs; without this block the AWS credential chain is used.
# s3:
#   endpoint_url: "https://s3.example.com"
#   region: auto
"""
