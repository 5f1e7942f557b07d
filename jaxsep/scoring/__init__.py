"""From songs to tables: splits and folders scored, resumed, summarised, compared with each other and with papers."""
