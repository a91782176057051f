"""Where does a vision-language model compute which object is where?"""

__version__ = "0.1.0"
