"use strict";
document.getElementById("base").textContent = location.origin + "/v1";
