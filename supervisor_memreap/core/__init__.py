"""Pure: values in, values out. No os, signal, time, socket, psutil or supervisor in here."""
