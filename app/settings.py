"""Every setting of API, worker and launcher, read from the environment once."""

from functools import lru_cache
from pathlib import Path

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings; `SAFEMARGIN_` in front of the upper-case name, or the plain names `REDIS_URL` and `PORT`."""

    model_config = SettingsConfigDict(env_prefix="SAFEMARGIN_", extra="ignore", frozen=True)

    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        validation_alias=AliasChoices("REDIS_URL", "SAFEMARGIN_REDIS_URL"),
        description="The queue. `safemargin serve` starts an embedded server where this is not set.",
    )
    host: str = Field(default="127.0.0.1", description="Address the API listens on.")
    port: int = Field(
        default=8000, ge=0, le=65535, validation_alias=AliasChoices("PORT", "SAFEMARGIN_PORT"), description="Its port."
    )
    home: Path = Field(default=Path("~/.safemargin"), description="Converted models, and artifacts unless set.")
    artifacts: str = Field(
        default="",
        description="Where directions are kept: a folder or a URL that fsspec knows (s3://…); the home where empty.",
    )
    model: str = Field(
        default="SmolLM2-135M-Instruct", description="The annotator: a folder, a GGUF file or a Hugging Face id."
    )
    device: str = Field(default="auto", description="cpu, cuda, cuda:1, … or auto.")
    dtype: str = Field(default="auto", description="bfloat16, float32, … or auto for the fastest exact enough one.")
    workers: int = Field(default=1, ge=1, le=64, description="Workers that the launcher starts.")
    threads: int = Field(default=0, ge=0, description="CPU threads per worker; 0 shares the cores among the workers.")
    metrics_port: int = Field(default=0, ge=0, le=65535, description="A worker's /metrics port; 0 picks a free one.")
    max_body_bytes: int = Field(default=32 << 20, ge=1, description="Larger request bodies answer 413.")
    sync_tokens: int = Field(default=16_384, ge=0, description="Estimated tokens above which a request answers 202.")
    sync_wait_seconds: float = Field(default=30.0, gt=0, description="Then a request that still waits answers 202.")
    chunk_tokens: int = Field(default=16_384, ge=1, description="Estimated tokens of one chunk of work.")
    result_seconds: int = Field(default=86_400, ge=1, description="How long results are kept.")

    @property
    def home_folder(self) -> Path:
        """`home` with `~` resolved."""
        return self.home.expanduser()

    @property
    def artifacts_url(self) -> str:
        """Root of the artifact store."""
        return self.artifacts or str(self.home_folder)


@lru_cache
def settings() -> Settings:
    """The settings of this process."""
    return Settings()
