// @ts-check
/** The settings page, where it needs the browser: notifications on this device. */

import { rest } from "./rest.js";
import { showDevice, thisDevice } from "./views/device.js";
import { find } from "./views/messages.js";

showDevice(thisDevice(rest(find(document, "meta[name=csrf-token]", HTMLMetaElement).content)));
