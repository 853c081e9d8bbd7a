"""Every setting of API, worker and launcher, read from the environment once."""

from functools import lru_cache
from pathlib import Path

from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.webhooks.signing import keys_of


class Settings(BaseSettings):
    """Settings; `SAFEMARGIN_` in front of the upper-case name, or the plain names `REDIS_URL` and `PORT`."""

    model_config = SettingsConfigDict(env_prefix="SAFEMARGIN_", extra="ignore", frozen=True, hide_input_in_errors=True)

    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        validation_alias=AliasChoices("REDIS_URL", "SAFEMARGIN_REDIS_URL"),
        description="The queue. `safemargin serve` starts an embedded server where this is not set.",
    )
    host: str = Field(default="127.0.0.1", description="Address the API listens on.")
    port: int = Field(
        default=8000, ge=0, le=65535, validation_alias=AliasChoices("PORT", "SAFEMARGIN_PORT"), description="Its port."
    )
    auth: bool = Field(default=False, description="Ask for API keys; `safemargin keys create` makes them.")
    open: bool = Field(
        default=False, description="Start without keys even on an address that other machines can reach."
    )
    home: Path = Field(default=Path("~/.safemargin"), description="Converted models, and artifacts unless set.")
    artifacts: str = Field(
        default="",
        description="Where directions are kept: a folder or a URL that fsspec knows (s3://…); the home where empty.",
    )
    model: str = Field(
        default="SmolLM2-135M-Instruct", description="The annotator: a folder, a GGUF file or a Hugging Face id."
    )
    device: str = Field(default="auto", description="cpu, cuda, cuda:1, …, auto, or balanced: over all cards.")
    dtype: str = Field(default="auto", description="bfloat16, float32, … or auto for the fastest exact enough one.")
    workers: int = Field(default=1, ge=1, le=64, description="Workers that the launcher starts.")
    threads: int = Field(default=0, ge=0, description="CPU threads per worker; 0 shares the cores among the workers.")
    metrics_port: int = Field(default=0, ge=0, le=65535, description="A worker's /metrics port; 0 picks a free one.")
    max_body_bytes: int = Field(default=32 << 20, ge=1, description="Larger request bodies answer 413.")
    max_file_bytes: int = Field(default=8 << 30, ge=1, description="Larger uploads answer 413, unpacked or not.")
    queue_tokens: int = Field(
        default=32_768, ge=1, description="Estimated tokens of small requests that may wait in any case."
    )
    queue_seconds: float = Field(
        default=5.0, ge=0, description="More may wait if they are answered this soon at the pace of late; else 503."
    )
    bulk_queue_tokens: int = Field(
        default=4_000_000_000, ge=1, description="What may wait of files and large requests."
    )
    train_queue_tokens: int = Field(default=64_000_000, ge=1, description="The same for fits.")
    sync_tokens: int = Field(default=16_384, ge=0, description="Estimated tokens above which a request answers 202.")
    sync_wait_seconds: float = Field(default=30.0, gt=0, description="Then a request that still waits answers 202.")
    chunk_tokens: int = Field(default=16_384, ge=1, description="Estimated tokens of one chunk of work.")
    score_cache_entries: int = Field(
        default=500_000, ge=0, description="Scores in each of the two generations of the cache; 0 keeps none."
    )
    repeat_seconds: int = Field(
        default=3600, ge=1, description="How long an answer given at once is kept for a repetition of its request."
    )
    result_seconds: int = Field(default=86_400, ge=1, description="How long results of requests are kept.")
    file_seconds: int = Field(default=30 * 86_400, ge=1, description="How long files, and results of them, are kept.")

    webhook_secret: str = Field(
        default="",
        repr=False,
        description="Secrets that sign webhooks: whsec_<base64>, separated by spaces; made by the service where empty.",
    )
    webhook_private: bool = Field(default=False, description="Let webhooks go to addresses that are not public.")

    @field_validator("webhook_secret")
    @classmethod
    def _signs(cls, text: str) -> str:
        keys_of(text)
        return text.strip()

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
