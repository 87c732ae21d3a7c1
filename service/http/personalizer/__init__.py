"""A doorway for clients of Azure Personalizer: its paths, bodies, status codes and error shape.

`doorway` stands in front of the other calls and serves `/personalizer/...`, where the settings have
it switched on. Each call decodes its body, has the engine decide or learn, and encodes the answer
as the SDKs of Personalizer expect it. docs/personalizer.md says what is the same and what is not.
"""
