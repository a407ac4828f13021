"""What to call a browser in a list of sessions, from what it says of itself. A courtesy: anyone can say anything."""

import re

# The first that fits: most of them also claim to be those further down.
BROWSERS = {
    "Edg": "Edge",
    "OPR": "Opera",
    "Firefox": "Firefox",
    "FxiOS": "Firefox",
    "CriOS": "Chrome",
    "Chrome": "Chrome",
    "HeadlessChrome": "Chrome",
    "Safari": "Safari",
}
SYSTEMS = {
    "iPhone": "iPhone",
    "iPad": "iPad",
    "Android": "Android",
    "Windows": "Windows",
    "CrOS": "ChromeOS",
    "Mac OS X": "macOS",
    "Linux": "Linux",
}


def name_of_browser(user_agent: str) -> str:
    browser = next((name for sign, name in BROWSERS.items() if re.search(rf"\b{sign}/", user_agent)), None)
    system = next((name for sign, name in SYSTEMS.items() if re.search(rf"\b{sign}\b", user_agent)), None)
    if browser is None:
        return user_agent[:40] or "An unnamed client"
    return browser if system is None else f"{browser} on {system}"
