"""What every section shares: unknown keys are refused with the one that was meant, and keys to servers stay out."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from axolotl_safety.util.errors import did_you_mean

from .secrets import HIDDEN, hide_credentials, hide_key


class Strict(BaseModel):
    """A model that refuses keys that it does not know and suggests the one that was meant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _name_the_unknown_key(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    hint = did_you_mean(str(key), cls.model_fields)
                    raise ValueError(
                        f"unknown key {key!r}: {hint}known keys here: {', '.join(sorted(cls.model_fields))}"
                    )
        return data

    def changed(self) -> set[str]:
        """Keys whose value is not the default.

        By value, not by who set it: Axolotl validates the section again with every default filled in.
        """
        return {key for key, field in type(self).model_fields.items() if getattr(self, key) != field.default}


class Endpoint(Strict):
    """An OpenAI-compatible server, for who asks one."""

    base_url: str | None = Field(None, description="openai: where the server is, such as http://localhost:8000/v1")
    api_key_env: str | None = Field(None, description="openai: name of the environment variable with the key")

    @model_validator(mode="before")
    @classmethod
    def _keep_secrets_out_of_messages(cls, data: Any) -> Any:
        # Before the fields are looked at, because a message about a field quotes what it was given.
        hidden = {"api_key_env": hide_key, "base_url": hide_credentials}
        if not isinstance(data, dict):
            return data
        return {key: hidden[key](value) if key in hidden else value for key, value in data.items()}

    @field_validator("api_key_env")
    @classmethod
    def _names_a_variable(cls, value: str | None) -> str | None:
        if value == HIDDEN:
            raise ValueError(
                "this is not the name of an environment variable and may be a key. A key never stands in the YAML: "
                "export it (export SERVER_KEY=...) and write api_key_env: SERVER_KEY"
            )
        return value

    @field_validator("base_url")
    @classmethod
    def _is_a_plain_address(cls, value: str | None) -> str | None:
        if value == HIDDEN:
            raise ValueError("write an address like http://localhost:8000/v1, without user, password, query or #")
        return value
