"""What a config may say about a rented machine. Nothing of it changes bytes."""

from typing import Annotated

from pydantic import BeforeValidator, SecretStr

from data_bridge.config.fields import Count, Section, field, refuse_bool

Amount = Annotated[float, BeforeValidator(refuse_bool)]


class VastSearch(Section):
    """Which machines will do."""

    gpu_name: str | None = field(None, byte=False, description="only with this GPU (`RTX 4090`); none is needed")
    min_inet_down: Amount | None = field(100.0, byte=False, ge=0, description="Mbit/s from the internet, at least")
    min_inet_up: Amount | None = field(100.0, byte=False, ge=0, description="Mbit/s to the internet, at least")
    min_cores: Amount | None = field(2.0, byte=False, ge=0, description="CPU cores, at least")
    min_reliability: Amount | None = field(0.95, byte=False, ge=0, le=1, description="reliability, at least")
    max_usd_gb: Amount | None = field(None, byte=False, ge=0, description="dollars for a GB of traffic, at most")
    regions: tuple[str, ...] = field((), byte=False, description="country codes (`[US, CA]`); default: any")


class VastSettings(Section):
    """A rented machine; read only with `--use-vast`."""

    api_key: SecretStr | None = field(
        None, byte=False, description="Vast.ai API key; default: VAST_API_KEY, or the file of the vendor's own tools"
    )
    api_url: str = field("https://console.vast.ai", byte=False, description="where the service is")
    offer_id: Count | None = field(None, byte=False, description="rent exactly this offer")
    search: VastSearch = field(VastSearch(), byte=False, description="which machines will do")
    image: str = field("python:3.12", byte=False, description="container image of the machine; with Python or uv")
    storage_gb: Count = field(50, byte=False, ge=8, description="disk to rent, GB")
    workdir: str = field("/workspace", byte=False, description="folder of the run on the machine")
    max_price_usd_hour: Amount = field(2.5, byte=False, gt=0, description="dollars an hour, disk included, at most")
    budget_usd: Amount | None = field(
        None, byte=False, gt=0, description="dollars for one command and all its machines, at most"
    )
    max_hours: Amount = field(24.0, byte=False, gt=0, le=168, description="a machine destroys itself after so long")
    bid_usd_hour: Amount | None = field(
        None, byte=False, gt=0, description="rent an interruptible machine for this bid; default: on demand"
    )
    max_machines: Count = field(
        5,
        byte=False,
        gt=0,
        description="machines to try, one after the other, at most; with `--machines`: for each slice",
    )
    repo_url: str | None = field(
        None, byte=False, description="repository to install on the machine; default: exactly the version that is here"
    )
    repo_ref: str | None = field(None, byte=False, description="commit, tag or branch of `repo_url`")
