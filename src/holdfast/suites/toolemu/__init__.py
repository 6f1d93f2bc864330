"""The ToolEmu suite: cases and toolkits from files in ToolEmu's JSON format, for the emulated world."""
